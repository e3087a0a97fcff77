"""Its being here lets tests of the folders below import what stands beside it: simulation, tiny sweeps."""
