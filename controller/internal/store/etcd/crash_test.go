package etcd_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd"
)

// crashDir tells the test binary to be the process that is killed.
const crashDir = "LIMIQUANTIX_STORE_CRASH_DIR"

// crashChild writes without end and says what was acknowledged.
func crashChild(dir string) {
	s, err := etcd.OpenEmbedded(context.Background(), etcd.EmbeddedConfig{Dir: dir})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var writers sync.WaitGroup
	for n := range 16 {
		writers.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("k/%d/%d", n, i)
				res, err := s.Commit(context.Background(), []store.Txn{{
					Conditions: []store.Condition{store.KeyAbsent(key)},
					Ops:        []store.Op{store.Put(key, []byte(key)), store.Put(key+"/twin", nil)},
				}})
				if err != nil || !res[0].Succeeded {
					fmt.Fprintln(os.Stderr, res, err)
					os.Exit(1)
				}
				fmt.Println(key) // one write, so lines stay whole
			}
		})
	}
	writers.Wait()
}

// TestKillKeepsWhatWasAcknowledged kills a writing process and checks that every
// commit it had acknowledged is there, and none by half.
func TestKillKeepsWhatWasAcknowledged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), crashDir+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var acknowledged []string
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if acknowledged = append(acknowledged, lines.Text()); len(acknowledged) == 2000 {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = child.Wait()
	if len(acknowledged) < 2000 {
		t.Fatalf("the writer ended by itself after %d commits", len(acknowledged))
	}
	if last := acknowledged[len(acknowledged)-1]; !strings.HasPrefix(last, "k/") {
		t.Fatalf("odd last line %q", last)
	}

	s := open(t, etcd.EmbeddedConfig{Dir: dir})
	list, err := s.List(t.Context(), "k/", store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]int64{}
	for _, kv := range list.KVs {
		found[kv.Key] = kv.ModRevision
	}
	for _, key := range acknowledged {
		if found[key] == 0 {
			t.Errorf("lost %s", key)
		}
	}
	for key, revision := range found {
		if !strings.HasSuffix(key, "/twin") && found[key+"/twin"] != revision {
			t.Errorf("half of a transaction: %s", key)
		}
	}
}
