// Package packet writes the frames that guests of the conformance suite send, lawful ones and lies, byte by byte: no stack of a kernel stands between what a
// check means and what a port sees.
package packet
