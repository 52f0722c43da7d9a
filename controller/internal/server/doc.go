// Package server is where the controller meets the network. Two ports: the public one (public.go) speaks gRPC, gRPC-Web, Connect and JSON to people
// and programs with a token, and plain HTTP to probes and Prometheus; the agent port (agent.go) speaks gRPC to nodes with certificates.
//
// What belongs here: transport, authentication, limits, the shape of errors, logs and metrics of calls. What a call does is in internal/service.
package server
