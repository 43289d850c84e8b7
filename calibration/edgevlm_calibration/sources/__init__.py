"""Where episodes of observations come from: a recording, or made up from a contract when there is none."""

from edgevlm_calibration.sources.base import Data, Episode
from edgevlm_calibration.sources.log import open_log, open_whole_log
from edgevlm_calibration.sources.synthetic import make_up

__all__ = ["Data", "Episode", "make_up", "open_log", "open_whole_log"]
