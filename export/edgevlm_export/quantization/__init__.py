"""An fp32 graph and a calibration table -> the int8 forms of a stage."""
