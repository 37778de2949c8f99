"""What is Ray's and belongs to no stage: connecting, planning resources, actor pools, outcomes."""
