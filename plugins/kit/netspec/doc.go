// Package netspec checks what network drivers are asked for, before any side effect: ids, marks, networks, interfaces. All that is wrong is named at once, by field path.
// It knows the contract's rules alone; what a driver does not offer (a type, an egress mode) the driver refuses itself.
package netspec
