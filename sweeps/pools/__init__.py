"""Where jobs run: pools of workers here, on Ray, and on machines that share no disk."""
