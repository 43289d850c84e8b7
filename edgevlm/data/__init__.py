"""Recordings (MCAP), pictures and features of regions, in and out. Recordings need the extra `bags`."""

from edgevlm.data.recording import Episode, Recording, read_log
from edgevlm.data.writer import LogWriter

__all__ = ["Episode", "LogWriter", "Recording", "read_log"]
