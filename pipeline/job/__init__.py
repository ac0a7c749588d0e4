"""The Ray job: plain actors, a short loop over them, one live run a dataset, and what the user sees of it."""
