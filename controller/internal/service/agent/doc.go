// Package agent is the controller's side of the desired stream and of status reports. The leader alone serves it.
//
// A node's desired set follows from the cache: what is placed there, the volumes it executes, the pools and image copies it shall have. Each change
// touches only the nodes that it concerns, and each stream renders only what changed.
package agent
