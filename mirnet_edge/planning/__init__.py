"""What a network will cost on a device, before anything is built: predicted, never measured.

weights ─ cost.cost_of ─► MACs and bytes per step ─ roofline.predict ─► a range of ms, a verdict
                                 devices.DEVICES ─┘
"""
