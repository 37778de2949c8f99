"""The parts of `render_mini_pods.py`: the objects, and how they are drawn, built and photographed."""
