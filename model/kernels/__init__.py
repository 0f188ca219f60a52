"""A step of the decoder on the CPU as native code, where the library was built. `step_of` is the way in."""

from model.kernels.step import NativeStep, Picture, SlotTensors, step_of

__all__ = ["NativeStep", "Picture", "SlotTensors", "step_of"]
