"""A recording through a bundle and the loop that runs on the robot; two bundles compared."""
