// Package domain holds the rules of the house as pure functions over the generated messages: what a valid object is, what follows from a report,
// when an operation has ended. No I/O, no clock, no store; time and randomness are passed in.
package domain
