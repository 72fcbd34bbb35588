"""Learned masks: what to remove is trained, with the variational information bottleneck (VTrans)."""
