"""What all engines share: the task, the schedule, checkpoints, processes."""
