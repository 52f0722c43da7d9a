// Package fault runs a fleet — a real controller and real agents as processes, each agent with the reference driver, whose journal outlives it as guests
// outlive a hypervisor's driver — and breaks it: kills, stops, partitions. What clients were told is kept in a ledger and compared with what controller and
// journals say; the journals are the truth.
package fault
