package lab

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// nodeState is what OpenNode needs to find a running node by its folder.
type nodeState struct {
	Name      string `json:"name"`
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"` // clock ticks after the machine's boot
}

func (n *Node) stateFile() string { return filepath.Join(n.Dir, "node.json") }

func (n *Node) save() error {
	text, err := json.Marshal(nodeState{n.Name, n.pid, n.start})
	if err != nil {
		return err
	}
	return os.WriteFile(n.stateFile(), append(text, '\n'), 0o644)
}

// OpenNode returns the node that runs in dir, whoever started it. It fails if
// none does.
func OpenNode(dir string) (*Node, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	n := &Node{Dir: dir}
	text, err := os.ReadFile(n.stateFile())
	if err != nil {
		return nil, fmt.Errorf("no node runs in %s: %w", dir, err)
	}
	var s nodeState
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("%s: %w", n.stateFile(), err)
	}
	n.Name, n.pid, n.start = s.Name, s.PID, s.StartTime
	if !n.running() {
		return nil, fmt.Errorf("no node runs in %s: process %d is gone", dir, s.PID)
	}
	return n, nil
}
