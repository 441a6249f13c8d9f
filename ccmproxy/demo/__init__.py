"""``ccmproxy demo``: the whole program in front of the simulator, with clients that use it."""
