"""The whole job under a schedule of faults; what it leaves is compared with what an undisturbed run leaves."""
