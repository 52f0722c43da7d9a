// Package placement holds what the leader does by itself: it places VMs and keeps claims exact, watches which nodes are heard of, ends operations,
// finishes deletions that no node has to confirm, empties fenced nodes, and forgets what has expired. Every write carries the leader's fence, and is
// conditional on every record that the decision was read from.
//
// Index, the scheduler's view of the state, is kept by every controller, so that any of them can explain.
package placement
