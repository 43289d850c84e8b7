"""Where inputs come from: a recording or a folder of pictures, or made up when there is neither."""

from edgevlm_calibration.sources.base import Data, Episode
from edgevlm_calibration.sources.log import open_log, open_whole_log
from edgevlm_calibration.sources.pictures import Photo, PictureData, make_up_pictures, open_pictures
from edgevlm_calibration.sources.regions import make_up_regions, open_regions
from edgevlm_calibration.sources.synthetic import make_up

__all__ = [
    "Data",
    "Episode",
    "Photo",
    "PictureData",
    "make_up",
    "make_up_pictures",
    "make_up_regions",
    "open_log",
    "open_pictures",
    "open_regions",
    "open_whole_log",
]
