"""The trainer: logged clicks in, a better checkpoint in the registry out."""
