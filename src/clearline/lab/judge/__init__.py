"""Is it intelligible speech, and is it what was to be said? Independent witnesses, calibrated; never an ASR's word for it."""

from clearline.lab.judge.judgement import Judgement, Rates, Stretch, Testimony, Verdict, Window
from clearline.lab.judge.timeline import judge_recording
from clearline.lab.judge.trial import judge

__all__ = ["Judgement", "Rates", "Stretch", "Testimony", "Verdict", "Window", "judge", "judge_recording"]
