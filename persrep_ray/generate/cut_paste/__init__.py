"""The generator `cut_paste`: the object is cut out of its photos and pasted into new scenes. It needs no model."""
