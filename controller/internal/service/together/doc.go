// Package together holds the tests and benchmarks of all services and of the leader's loops together, against a store and agents in memory.
package together
