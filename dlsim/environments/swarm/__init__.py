"""SwarmBench's five tasks on a grid: the world, the tasks, their scripts."""
