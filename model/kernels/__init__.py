"""A step of the decoder on the CPU as native code, where the library was built. `step_of` is the way in."""

from model.kernels.families import step_of
from model.kernels.ordinary import OrdinaryStep
from model.kernels.step import NativeStep, Picture, SlotTensors

__all__ = ["NativeStep", "OrdinaryStep", "Picture", "SlotTensors", "step_of"]
