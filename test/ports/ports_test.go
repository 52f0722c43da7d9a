package ports

import (
	"fmt"
	"net"
	"testing"
)

func TestFree(t *testing.T) {
	seen := map[int]bool{}
	for range 50 {
		ports, err := Free(3)
		if err != nil || len(ports) != 3 {
			t.Fatal(ports, err)
		}
		for _, p := range ports {
			if seen[p] || p < first || p > last {
				t.Fatalf("port %d, after %v", p, seen)
			}
			seen[p] = true
			l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", p))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = l.Close() }()
			if take(p, 1) == nil {
				t.Fatalf("port %d is taken", p)
			}
		}
	}
}
