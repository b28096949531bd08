"""Video files: decode, restore every frame at its own time, encode, mux; many files on Ray.

inspect_video ─► plan_output ─► VideoReader ─► Restorer ─► VideoWriter, in segments
                                                        ─► join_segments ─► the restored file
"""
