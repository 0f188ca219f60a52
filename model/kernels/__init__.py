"""The decoder's step and our VAE's decoder on the CPU as native code, where the library was built.

`step_of` and `painter_of` are the ways in.
"""

from model.kernels.families import step_of
from model.kernels.ordinary import OrdinaryStep
from model.kernels.painting import NativePainter, painter_of
from model.kernels.step import NativeStep, Picture, SlotTensors

__all__ = ["NativePainter", "NativeStep", "OrdinaryStep", "Picture", "SlotTensors", "painter_of", "step_of"]
