package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func load(t *testing.T, yaml string, environ ...string) (Config, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "controller.yaml")
	if err := os.WriteFile(path, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path, environ)
	if err != nil {
		return c, err
	}
	return c, c.Validate()
}

func TestDefaultsNeedNoFile(t *testing.T) {
	t.Parallel()
	c, err := Load("", nil)
	if err != nil || c.Validate() != nil || !reflect.DeepEqual(c, Default()) {
		t.Fatalf("%+v, %v, %v", c, err, c.Validate())
	}
}

func TestFileThenEnvironment(t *testing.T) {
	t.Parallel()
	c, err := load(t, `
agent_address: controller.lab
scheduler:
  placement_strategy: pack
  overcommit_cpu: 4
  reserved_memory: 1.5GiB
heartbeat: {interval: 1s, timeout: 5s}
`, "LIMIQUANTIX_CONTROLLER_SCHEDULER_OVERCOMMIT_CPU=3", "LIMIQUANTIX_CONTROLLER_HEARTBEAT_TIMEOUT=6s",
		"LIMIQUANTIX_CONTROLLER_STORE_ENDPOINTS=http://a:2379, http://b:2379", "LIMIQUANTIX_CONTROLLER_CONFIG=x", "OTHER=1")
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.AgentAddress = "controller.lab"
	want.Scheduler.PlacementStrategy, want.Scheduler.OvercommitCPU, want.Scheduler.ReservedMemory = "pack", 3, 3<<29
	want.Heartbeat = Heartbeat{Interval: time.Second, Timeout: 6 * time.Second}
	want.Store.Endpoints = []string{"http://a:2379", "http://b:2379"}
	if !reflect.DeepEqual(c, want) {
		t.Fatalf("got %+v\nwant %+v", c, want)
	}
	if got := c.AdvertisedAgentAddress(9000); got != "controller.lab:9000" {
		t.Error(got)
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		yaml string
		env  string
		want []string
	}{
		"unknown key":         {yaml: "listen: 127.0.0.1:1\nlisen: x\n", want: []string{"line 2", `"lisen"`, `did you mean "listen"?`}},
		"unknown nested key":  {yaml: "scheduler:\n  overcomit_cpu: 3\n", want: []string{"line 2", `"scheduler.overcomit_cpu"`, `"scheduler.overcommit_cpu"`}},
		"unknown, none alike": {yaml: "heartbeat:\n  zzzzzzzzzz: 3\n", want: []string{"line 2", "known here: interval, timeout"}},
		"two at once":         {yaml: "a: 1\nstore: {b: 1}\n", want: []string{`"a"`, `"store.b"`}},
		"twice the same key":  {yaml: "listen: 127.0.0.1:1\nlisten: 127.0.0.1:2\n", want: []string{"line 2", "already defined"}},
		"wrong type":          {yaml: "scheduler:\n  overcommit_cpu: many\n", want: []string{"line 2", "many"}},
		"not a mapping":       {yaml: "scheduler: pack\n", want: []string{"line 1", "scheduler must be a mapping"}},
		"two documents":       {yaml: "listen: 127.0.0.1:1\n---\nlisten: 127.0.0.1:2\n", want: []string{"more than one document"}},
		"memory":              {yaml: "scheduler: {reserved_memory: lots}\n", want: []string{"512MiB"}},
		"open without tls":    {yaml: "listen: 0.0.0.0:8080\n", want: []string{"listen", "tls.cert", "127.0.0.1"}},
		"all without tls":     {yaml: "listen: ':8080'\n", want: []string{"tls.cert"}},
		"name without tls":    {yaml: "listen: 'host.example:8080'\n", want: []string{"tls.cert"}},
		"half of tls":         {yaml: "tls: {cert: a}\n", want: []string{"tls", "missing"}},
		"strategy":            {yaml: "scheduler: {placement_strategy: spred}\n", want: []string{"spread, pack, balance", `did you mean "spread"`}},
		"ratio":               {yaml: "scheduler: {overcommit_memory: .nan}\n", want: []string{"scheduler.overcommit_memory"}},
		"heartbeat":           {yaml: "heartbeat: {interval: 20s}\n", want: []string{"heartbeat.timeout", "three intervals"}},
		"address":             {yaml: "agent_listen: nowhere\n", want: []string{"agent_listen", "host:port"}},
		"port":                {yaml: "agent_listen: ':99999'\n", want: []string{"agent_listen", "port"}},
		"agent address":       {yaml: "agent_address: 'http://x'\n", want: []string{"agent_address"}},
		"endpoints":           {yaml: "store: {endpoints: [nowhere]}\n", want: []string{"store.endpoints"}},
		"memory endpoints":    {yaml: "store: {kind: memory, endpoints: ['http://a:1']}\n", want: []string{"store.endpoints"}},
		"endpoint, path":      {yaml: "store: {endpoints: ['http://a:1/b']}\n", want: []string{"store.endpoints", "more than a host"}},
		"endpoint, no port":   {yaml: "store: {endpoints: ['https://a']}\n", want: []string{"store.endpoints", "2379"}},
		"endpoint, user":      {yaml: "store: {endpoints: ['https://u:geheim@a:1']}\n", want: []string{"store.endpoints", "u:xxxxx@", "store.password_file"}},
		"http and https":      {yaml: "store: {endpoints: ['http://a:1', 'https://b:1']}\n", want: []string{"store.endpoints", "some are http"}},
		"store tls, http":     {yaml: "store: {endpoints: ['http://a:1'], tls: {ca: c}}\n", want: []string{"store.tls", "https://"}},
		"store tls, half":     {yaml: "store: {endpoints: ['https://a:1'], tls: {key: k}}\n", want: []string{"store.tls", "missing"}},
		"store tls, none":     {yaml: "store: {tls: {ca: c}, user: u, password_file: p}\n", want: []string{"store.tls.ca", "store.user", "store.password_file", "store.endpoints names none"}},
		"store tls, memory":   {yaml: "store: {kind: memory, tls: {cert: c, key: k}}\n", want: []string{"store.tls.cert", "store.tls.key"}},
		"store tls, key":      {yaml: "store: {tls: {cacert: c}}\n", want: []string{"line 1", `"store.tls.cacert"`, `"store.tls.cert"`}},
		"user alone":          {yaml: "store: {endpoints: ['https://a:1'], user: u}\n", want: []string{"store.user", "password_file", "missing"}},
		"password alone":      {yaml: "store: {endpoints: ['https://a:1'], password_file: p}\n", want: []string{"store.user", "missing"}},
		"user in the clear":   {yaml: "store: {endpoints: ['http://10.0.0.1:2379'], user: u, password_file: p}\n", want: []string{"store.user", "in the clear", "https"}},
		"unknown variable":    {env: "LIMIQUANTIX_CONTROLLER_LISTENN=x", want: []string{"LIMIQUANTIX_CONTROLLER_LISTENN", `did you mean "LIMIQUANTIX_CONTROLLER_LISTEN"?`}},
		"variable's value":    {env: "LIMIQUANTIX_CONTROLLER_HEARTBEAT_INTERVAL=often", want: []string{"HEARTBEAT_INTERVAL", "often"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := load(t, tc.yaml, tc.env)
			if err == nil {
				t.Fatal("taken")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
		})
	}
}

func TestLoopbackNeedsNoTLS(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"127.0.0.1:8080", "[::1]:0", "localhost:80", "127.9.9.9:1"} {
		c := Default()
		c.Listen = listen
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", listen, err)
		}
	}
	c := Default()
	c.Listen, c.TLS = "0.0.0.0:8080", TLS{Cert: "c", Key: "k"}
	if err := c.Validate(); err != nil {
		t.Error(err)
	}
}

func TestExternalStore(t *testing.T) {
	t.Parallel()
	c, err := load(t, "store:\n  endpoints: ['https://a:2379', 'https://[::1]:2379']\n  tls: {ca: /c, cert: /d}\n  user: u\n",
		"LIMIQUANTIX_CONTROLLER_STORE_TLS_KEY=/k", "LIMIQUANTIX_CONTROLLER_STORE_PASSWORD_FILE=/p")
	if err != nil {
		t.Fatal(err)
	}
	want := Store{
		Kind: StoreEtcd, Endpoints: []string{"https://a:2379", "https://[::1]:2379"},
		TLS: StoreTLS{CA: "/c", Cert: "/d", Key: "/k"}, User: "u", PasswordFile: "/p",
	}
	if !reflect.DeepEqual(c.Store, want) {
		t.Fatalf("got %+v, want %+v", c.Store, want)
	}
	if _, err := load(t, "store: {endpoints: ['http://127.0.0.1:2379'], user: u, password_file: p}\n"); err != nil {
		t.Fatalf("a password on this machine: %v", err)
	}
}
