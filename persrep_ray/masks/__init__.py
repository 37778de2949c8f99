"""Foreground masks for photos that come without one."""
