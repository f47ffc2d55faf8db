"""The parts of report.html: what it reads, its plots, pictures and words; template, style and script."""
