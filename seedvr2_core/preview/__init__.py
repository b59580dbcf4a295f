"""A preview: a short piece of a job's film, made of the job's own segments."""
