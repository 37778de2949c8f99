"""The parts of `render_mini_pods.py`: what the objects are, how they are drawn, built and photographed."""
