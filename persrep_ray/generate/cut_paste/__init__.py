"""The generator `cut_paste` cuts an object out of its photos and pastes it into new scenes. It needs no model."""
