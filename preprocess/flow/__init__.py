"""From frames to flow and what is made of it: sources, options, maps of boundaries."""
