// Package vm serves VMService: one file for each use case. Every mutation goes through package request, changes only what users may change (spec,
// labels, the mark of deletion), and begins an operation; placing and realising happen elsewhere.
package vm
