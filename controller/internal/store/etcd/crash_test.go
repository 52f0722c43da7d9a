package etcd_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/limiquantix/limiquantix/controller/internal/store"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd"
	"github.com/limiquantix/limiquantix/controller/internal/store/etcd/etcdtest"
	"github.com/limiquantix/limiquantix/controller/internal/store/storetest"
)

// crashOn tells the test binary to be the process that is killed, and what it writes to: a directory, or an endpoint. crashRound goes into its keys.
const (
	crashOn    = "LIMIQUANTIX_TEST_STORE_CRASH"
	crashRound = "LIMIQUANTIX_TEST_STORE_ROUND"
)

// crashChild writes without end, two transactions of two keys a call, and says what was acknowledged at which revision.
func crashChild(on string) {
	go func() { // it does not outlive who started it
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(2)
	}()
	s, err := openCrash(context.Background(), on)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	var writers sync.WaitGroup
	for n := range 16 {
		writers.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("k/%s/%d/%d", os.Getenv(crashRound), n, i)
				write := func(key string) store.Txn {
					return store.Txn{
						Conditions: []store.Condition{store.KeyAbsent(key)},
						Ops:        []store.Op{store.Put(key, []byte(key)), store.Put(key+"/twin", []byte(key))},
					}
				}
				res, err := s.Commit(context.Background(), []store.Txn{write(key + "/a"), write(key + "/b")})
				if err != nil || !res[0].Succeeded || !res[1].Succeeded {
					fmt.Fprintln(os.Stderr, res, err)
					os.Exit(1)
				}
				fmt.Printf("%s/a %d\n%s/b %d\n", key, res[0].Revision, key, res[1].Revision) // one write, so lines stay whole
			}
		})
	}
	writers.Wait()
}

func openCrash(ctx context.Context, on string) (*etcd.Store, error) {
	if strings.Contains(on, "://") {
		return etcd.OpenExternal(ctx, etcd.ExternalConfig{Endpoints: []string{on}})
	}
	return etcd.OpenEmbedded(ctx, etcd.EmbeddedConfig{Dir: on})
}

// TestKillKeepsWhatWasAcknowledged kills a writing process at random moments, again and again on the same data, and checks each time that every
// commit that it had acknowledged is there at its revision, and none by half.
func TestKillKeepsWhatWasAcknowledged(t *testing.T) {
	t.Parallel()
	killWriters(t, t.TempDir())
}

// TestKilledClientLeavesNothingByHalf does the same to a process that writes to an etcd elsewhere.
func TestKilledClientLeavesNothingByHalf(t *testing.T) {
	t.Parallel()
	killWriters(t, etcdtest.Start(t, etcdtest.Options{}).Endpoints()[0])
}

func killWriters(t *testing.T, on string) {
	t.Helper()
	r := rand.New(rand.NewPCG(storetest.Seed(t), 0)) //nolint:gosec // to be had again
	acknowledged := map[string]int64{}
	kills := storetest.Count(t, 3)
	for round := range kills {
		last := killWriter(t, on, round, 1+r.IntN(2000), acknowledged)
		s, err := openCrash(t.Context(), on)
		if err != nil {
			t.Fatal(err)
		}
		wholeAfterKill(t, s, acknowledged, last)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("evidence: %s | %d kills, %d acknowledged transactions", t.Name(), kills, len(acknowledged))
}

// killWriter kills a child once it has acknowledged so many transactions, adds them to acknowledged, and returns the last revision.
func killWriter(t *testing.T, on string, round, after int, acknowledged map[string]int64) (last int64) {
	t.Helper()
	child := exec.CommandContext(t.Context(), os.Args[0]) //nolint:gosec // ourselves
	child.Env = append(os.Environ(), crashOn+"="+on, crashRound+"="+strconv.Itoa(round))
	child.Stderr = os.Stderr
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines, got := bufio.NewScanner(out), 0
	for lines.Scan() {
		key, text, _ := strings.Cut(lines.Text(), " ")
		revision, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			t.Fatalf("odd line %q", lines.Text())
		}
		acknowledged[key], last = revision, max(last, revision)
		if got++; got == after {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = child.Wait()
	if got < after {
		t.Fatalf("the writer ended by itself after %d transactions", got)
	}
	return last
}

// wholeAfterKill reads all at one revision, and all again as a watch from the beginning tells it.
func wholeAfterKill(t *testing.T, s store.Store, acknowledged map[string]int64, last int64) {
	t.Helper()
	list, err := s.List(t.Context(), "k/", store.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if list.Revision < last {
		t.Errorf("the store is at %d, and acknowledged %d", list.Revision, last)
	}
	found := map[string]int64{}
	for _, kv := range list.KVs {
		found[kv.Key] = kv.ModRevision
		if string(kv.Value) != strings.TrimSuffix(kv.Key, "/twin") || kv.Version != 1 {
			t.Errorf("%+v is not what was written", kv)
		}
	}
	for key, revision := range acknowledged {
		if found[key] != revision {
			t.Errorf("%s was acknowledged at %d, and is of %d", key, revision, found[key])
		}
	}
	for key, revision := range found {
		if !strings.HasSuffix(key, "/twin") && found[key+"/twin"] != revision || found[strings.TrimSuffix(key, "/twin")] != revision {
			t.Errorf("half of a transaction: %s", key)
		}
	}
	w, err := s.Watch(t.Context(), "k/", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for len(found) > 0 {
		batch, err := w.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, ev := range batch.Events {
			if found[ev.KV.Key] != batch.Revision {
				t.Fatalf("the watch tells of %s at %d, where the list has %d", ev.KV.Key, batch.Revision, found[ev.KV.Key])
			}
			delete(found, ev.KV.Key)
		}
	}
}
