// Package node serves NodeService twice: Service for operators on the public port, Agent for nodes that act for themselves on the agent port.
package node
