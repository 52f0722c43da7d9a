package host

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/limiquantix/limiquantix/proto/fault"
	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
	metav1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/meta/v1"
	"github.com/limiquantix/limiquantix/sdk"
)

// modeEnv tells a child process what to be.
const modeEnv = "LIMIQUANTIX_TEST_CHILD"

// runChild is main of a child process.
func runChild(mode string) int {
	mode, arg, _ := strings.Cut(mode, ":")
	switch mode {
	case "serve":
		serveFake(arg)
	case "noisy": // prints before the handshake and, to descriptor 1 itself, after it
		fmt.Println("a library says hello\nand | has | many | bars")
		time.AfterFunc(time.Millisecond, func() { _, _ = syscall.Write(1, []byte("noise on the descriptor\n")) })
		serveFake("")
	case "hang":
		fmt.Fprintln(os.Stderr, "about to hang")
		time.Sleep(time.Hour) // not select {}: without cgo Go takes that for a deadlock
	case "mute":
		time.Sleep(time.Hour) // not select {}: without cgo Go takes that for a deadlock
	case "garbage":
		for range 3000 {
			fmt.Println("this is not a handshake, however often it is said")
		}
		time.Sleep(time.Hour) // not select {}: without cgo Go takes that for a deadlock
	case "exit":
		fmt.Fprintln(os.Stderr, "cannot find my library")
		return 7
	case "nocert":
		fmt.Printf("1|1|unix|%s/sock|grpc|\n", os.Getenv(plugin.EnvUnixSocketDir))
		time.Sleep(time.Hour) // not select {}: without cgo Go takes that for a deadlock
	case "elsewhere":
		fmt.Println("1|1|unix|/tmp/elsewhere.sock|grpc|" + strings.Repeat("A", 60))
		time.Sleep(time.Hour) // not select {}: without cgo Go takes that for a deadlock
	case "version":
		fmt.Println("1|9|unix|/tmp/x|grpc|")
		time.Sleep(time.Hour) // not select {}: without cgo Go takes that for a deadlock
	case "cookie":
		hs := sdk.Handshake()
		hs.MagicCookieValue = "another"
		plugin.Serve(&plugin.ServeConfig{HandshakeConfig: hs, Plugins: sdk.PluginSet(nil), GRPCServer: plugin.DefaultGRPCServer})
	case "bare":
		serveBare()
	case "host":
		return runHost(arg)
	default:
		return 99
	}
	return 0
}

// runHost is a host in a process of its own: it launches the plugin in directory arg, prints its process id and waits to be killed.
func runHost(arg string) int {
	part := strings.Split(arg, ",") // directory, runtime directory, mode
	p, err := Launch(context.Background(), Spec{Dir: part[0], RuntimeDir: part[1], Env: []string{modeEnv + "=" + part[2]}, Host: &driverv1.HostFacts{
		ClusterId: "c", NodeId: "n", StateDirectory: "/s", RuntimeDirectory: "/r",
	}})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(p.PID())
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	return 0
}

// fake is a plugin whose one driver does what the domain's id says.
type fake struct {
	*sdk.BasePlugin
	driverv1.UnimplementedComputeDriverServiceServer
	mu      sync.Mutex
	secrets map[string]string
	silent  bool
}

func serveFake(arg string) {
	f := &fake{silent: arg == "silent"}
	info := sdk.Info{Name: "fake", Version: "1.2.3"}
	if arg == "liar" {
		info.Name = "liar"
	}
	if v, ok := strings.CutPrefix(arg, "version="); ok {
		info.Version = v
	}
	f.BasePlugin = sdk.NewBasePlugin(info, f.configure)
	f.Health.Healthy(map[string]string{"fake.version": info.Version})
	sdk.Serve(sdk.Plugin{Base: f, Compute: f})
}

// bare is a plugin made with go-plugin alone.
type bare struct{ *fake }

func (b bare) GetPluginInfo(context.Context, *driverv1.GetPluginInfoRequest) (*driverv1.GetPluginInfoResponse, error) {
	return &driverv1.GetPluginInfoResponse{Name: "fake", Version: "1.2.3", Kinds: []driverv1.DriverKind{driverv1.DriverKind_DRIVER_KIND_COMPUTE}}, nil
}

func serveBare() {
	f := &fake{}
	f.BasePlugin = sdk.NewBasePlugin(sdk.Info{Name: "fake"}, f.configure)
	plugin.Serve(&plugin.ServeConfig{
		HandshakeConfig: sdk.Handshake(),
		Plugins: sdk.PluginSet(func(s *grpc.Server) {
			driverv1.RegisterPluginServiceServer(s, bare{f})
			driverv1.RegisterComputeDriverServiceServer(s, f)
		}),
		GRPCServer: func(o []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(o, grpc.MaxRecvMsgSize(1<<30))...)
		},
	})
}

func (f *fake) configure(_ context.Context, c *sdk.Config) (*driverv1.GetCapabilitiesResponse, error) {
	var cfg struct {
		Crash  bool   `json:"crash"`
		Number int    `json:"number"`
		Sleep  string `json:"sleep"`
	}
	if err := c.Decode(&cfg); err != nil {
		return nil, err
	}
	if cfg.Crash {
		fmt.Fprintln(os.Stderr, "told to crash")
		os.Exit(3)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.secrets = map[string]string{}
	for k, v := range c.Secrets {
		f.secrets[k] = string(v)
	}
	return &driverv1.GetCapabilitiesResponse{Compute: &driverv1.ComputeCapabilities{}}, nil
}

func (f *fake) WatchHealth(r *driverv1.WatchHealthRequest, s driverv1.PluginService_WatchHealthServer) error {
	if f.silent {
		<-s.Context().Done()
		return s.Context().Err()
	}
	return f.BasePlugin.WatchHealth(r, s)
}

func (f *fake) GetDomain(ctx context.Context, req *driverv1.GetDomainRequest) (*driverv1.GetDomainResponse, error) {
	verb, arg, _ := strings.Cut(req.GetDomainId(), ":")
	d := &driverv1.Domain{DomainId: req.GetDomainId()}
	switch verb {
	case "env":
		d.StateDetail = os.Getenv(arg)
	case "environ":
		d.StateDetail = strings.Join(os.Environ(), "\n")
	case "secret":
		f.mu.Lock()
		d.StateDetail = f.secrets[arg]
		f.mu.Unlock()
	case "bytes":
		n, _ := strconv.Atoi(arg)
		d.Handle = make([]byte, n)
	case "block":
		if err := os.WriteFile(arg, nil, 0o600); err != nil {
			return nil, err
		}
		<-ctx.Done()
		return nil, ctx.Err()
	case "wait": // until a file exists
		for ctx.Err() == nil {
			if _, err := os.Stat(arg); err == nil {
				return &driverv1.GetDomainResponse{Domain: d}, nil
			}
			time.Sleep(2 * time.Millisecond)
		}
		return nil, ctx.Err()
	case "panic":
		panic("the driver is broken")
	case "gopanic":
		go panic("a goroutine is broken")
		time.Sleep(time.Hour) // not select {}: without cgo Go takes that for a deadlock
	case "fault":
		return nil, fmt.Errorf("wrapped: %w", fault.New(metav1.Reason_REASON_VOLUME_IN_USE, "volume v is attached").WithRemedy("detach it").WithMetadata("volume", "v"))
	case "plain":
		return nil, fmt.Errorf("just words")
	case "print":
		fmt.Println("printed on standard output")
	case "log":
		slog.Warn(arg, "key", "value")
	case "flood":
		n, _ := strconv.Atoi(arg)
		line := strings.Repeat("x", 1023)
		for range n {
			fmt.Fprintln(os.Stderr, line)
		}
		_, _ = os.Stderr.WriteString(strings.Repeat("y", 1<<20) + "\n") // a line of 1 MiB
	case "version":
		info, _ := f.GetPluginInfo(ctx, nil)
		d.StateDetail = info.GetVersion()
	}
	return &driverv1.GetDomainResponse{Domain: d}, nil
}
