"""What comes out of video files: packets, frames, times, motion vectors; and what is wrong."""
