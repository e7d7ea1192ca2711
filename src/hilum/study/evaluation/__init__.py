"""hilum evaluate: every figure of a run again, with thresholds, calibration and tests."""
