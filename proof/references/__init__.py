"""Networks that no library holds, written a second time from their papers, for parity: plain functions of float64."""
