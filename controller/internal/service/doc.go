// Package service is the folder of the services, each in a package of its own. It holds nothing itself but the tests and benchmarks of all of them
// together, against a store and agents in memory.
package service
