"""Recorded inputs -> activation ranges. INT8 calibration, not camera calibration."""
