"""Our models as files of other people's programs: the way back from `model.importing`."""
