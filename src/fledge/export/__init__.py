"""A model goes to other programs (out.py), comes back (back.py), and goes to the hub (upload.py)."""
