// Package pools holds what must be so when a place for disks stops working, or the node that works on it: a pool that hangs is told within 30 s and holds up nothing else, and what a
// lost executor left undone is finished elsewhere only after its lease. Controller, agents and plugins are processes as built.
package pools
