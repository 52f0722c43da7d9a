package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	driverv1 "github.com/limiquantix/limiquantix/proto/gen/limiquantix/driver/v1"
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var vmLabels = []string{"vm_id", "vm", "project"}

func vmDesc(name, help string, labels ...string) *prometheus.Desc {
	return desc(name, help, append(append([]string{}, vmLabels...), labels...)...)
}

var (
	agentConnected = desc("limiquantix_agent_connected", "Whether a controller tells what is wanted.")
	agentHeartbeat = desc("limiquantix_agent_heartbeat_timestamp_seconds", "When a heartbeat was last answered.")
	agentCert      = desc("limiquantix_agent_certificate_expiry_timestamp_seconds", "When the node's certificate ends.")
	agentRunning   = desc("limiquantix_agent_queue_running", "Workers that run now.")
	agentWaiting   = desc("limiquantix_agent_queue_waiting", "Objects that wait for their next try.")
	agentPending   = desc("limiquantix_agent_reports_pending", "Reports and events that no controller has taken yet.")
	agentVMs       = desc("limiquantix_agent_vms", "VMs on this node by phase.", "phase")

	nodeCPUs      = desc("limiquantix_node_cpus", "Logical CPUs.")
	nodeCPUTime   = desc("limiquantix_node_cpu_seconds_total", "CPU time by mode.", "mode")
	nodeMemory    = desc("limiquantix_node_memory_bytes", "Memory of the host.")
	nodeAvailable = desc("limiquantix_node_memory_available_bytes", "Memory that could be used without swapping.")
	nodeLoad      = desc("limiquantix_node_load1", "Load average over one minute.")
	nodeBoot      = desc("limiquantix_node_boot_timestamp_seconds", "When the host booted.")
	poolCapacity  = desc("limiquantix_node_pool_capacity_bytes", "Room of a pool.", "pool_id")
	poolUsed      = desc("limiquantix_node_pool_used_bytes", "Room of a pool in use.", "pool_id")
	poolHealthy   = desc("limiquantix_node_pool_healthy", "Whether a pool works.", "pool_id")

	pluginUp       = desc("limiquantix_plugin_up", "Whether a plugin serves and is not unhealthy.", "plugin", "version")
	pluginState    = desc("limiquantix_plugin_state", "The state of a plugin: 1 for the one that it is in.", "plugin", "state")
	pluginRestarts = desc("limiquantix_plugin_restarts_total", "Times a plugin was started again.", "plugin")

	vmUp        = vmDesc("limiquantix_vm_up", "Whether figures of a running VM could be read.")
	vmCPU       = vmDesc("limiquantix_vm_cpu_seconds_total", "CPU time used.")
	vmVCPUs     = vmDesc("limiquantix_vm_vcpus", "Virtual CPUs.")
	vmMemory    = vmDesc("limiquantix_vm_memory_bytes", "Memory that the guest has.")
	vmUnused    = vmDesc("limiquantix_vm_memory_unused_bytes", "Memory that the guest does not use.")
	vmRSS       = vmDesc("limiquantix_vm_memory_resident_bytes", "Resident memory of the hypervisor process.")
	vmDiskRead  = vmDesc("limiquantix_vm_disk_read_bytes_total", "Bytes read.", "disk_id")
	vmDiskReads = vmDesc("limiquantix_vm_disk_reads_total", "Reads.", "disk_id")
	vmDiskWrite = vmDesc("limiquantix_vm_disk_written_bytes_total", "Bytes written.", "disk_id")
	vmDiskWrits = vmDesc("limiquantix_vm_disk_writes_total", "Writes.", "disk_id")
	vmDiskAlloc = vmDesc("limiquantix_vm_disk_allocated_bytes", "Room that a disk takes.", "disk_id")
	vmDiskSize  = vmDesc("limiquantix_vm_disk_size_bytes", "Size that the guest sees.", "disk_id")
	vmNetRx     = vmDesc("limiquantix_vm_network_receive_bytes_total", "Bytes received by the guest.", "interface_id")
	vmNetTx     = vmDesc("limiquantix_vm_network_transmit_bytes_total", "Bytes sent by the guest.", "interface_id")
	vmNetRxDrop = vmDesc("limiquantix_vm_network_receive_drops_total", "Packets dropped on receipt.", "interface_id")
	vmNetTxDrop = vmDesc("limiquantix_vm_network_transmit_drops_total", "Packets dropped when sending.", "interface_id")
)

var portLabels = []string{"port", "vm", "network"}

var (
	networkHealthy = desc("limiquantix_node_network_healthy", "Whether a network works on this node.", "network_id")
	portUp         = desc("limiquantix_port_up", "Whether packets can pass a port.", portLabels...)
)

// portCounters are a port's counters, seen from the guest.
var portCounters = []struct {
	desc  *prometheus.Desc
	value func(*driverv1.NetworkInterfaceStats) uint64
}{
	{desc("limiquantix_port_receive_bytes_total", "Bytes to the guest.", portLabels...), (*driverv1.NetworkInterfaceStats).GetReceiveBytes},
	{desc("limiquantix_port_receive_packets_total", "Packets to the guest.", portLabels...), (*driverv1.NetworkInterfaceStats).GetReceivePackets},
	{desc("limiquantix_port_receive_dropped_packets_total", "Packets to the guest that the device dropped.", portLabels...), (*driverv1.NetworkInterfaceStats).GetReceiveDropped},
	{desc("limiquantix_port_transmit_bytes_total", "Bytes from the guest.", portLabels...), (*driverv1.NetworkInterfaceStats).GetTransmitBytes},
	{desc("limiquantix_port_transmit_packets_total", "Packets from the guest.", portLabels...), (*driverv1.NetworkInterfaceStats).GetTransmitPackets},
	{desc("limiquantix_port_transmit_dropped_packets_total", "Packets from the guest that the device dropped.", portLabels...), (*driverv1.NetworkInterfaceStats).GetTransmitDropped},
	{desc("limiquantix_port_ingress_denied_packets_total", "Packets to the guest that no rule allowed.", portLabels...), (*driverv1.NetworkInterfaceStats).GetIngressDeniedPackets},
	{desc("limiquantix_port_egress_denied_packets_total", "Packets from the guest that no rule allowed.", portLabels...), (*driverv1.NetworkInterfaceStats).GetEgressDeniedPackets},
	{desc("limiquantix_port_spoofed_packets_total", "Packets from the guest that lied about who sent them.", portLabels...), (*driverv1.NetworkInterfaceStats).GetSpoofedPackets},
}

// pluginStates are all states that a plugin can be in.
var pluginStates = []string{"healthy", "degraded", "unhealthy", "starting", "quarantined", "missing"}

// sampleCollector shows the sample that was collected last.
type sampleCollector struct{ m *Metrics }

// Describe describes nothing: which series there are depends on the node.
func (sampleCollector) Describe(chan<- *prometheus.Desc) {}

// Collect shows the sample.
func (c sampleCollector) Collect(out chan<- prometheus.Metric) {
	c.m.mu.Lock()
	s := c.m.sample
	c.m.mu.Unlock()
	gauge := func(d *prometheus.Desc, v float64, l ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, l...)
	}
	counter := func(d *prometheus.Desc, v float64, l ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, l...)
	}
	collectAgent(s.Agent, gauge)
	gauge(nodeCPUs, float64(s.Node.CPUs))
	for mode, v := range s.Node.CPUSeconds {
		counter(nodeCPUTime, v, mode)
	}
	gauge(nodeMemory, s.Node.MemoryBytes)
	gauge(nodeAvailable, s.Node.MemoryAvailable)
	gauge(nodeLoad, s.Node.Load1)
	gauge(nodeBoot, s.Node.BootTime)
	for id, p := range s.Pools {
		gauge(poolCapacity, float64(p.GetCapacityBytes()), id)
		gauge(poolUsed, float64(p.GetUsedBytes()), id)
		gauge(poolHealthy, truth(p.GetHealth() == 1), id)
	}
	for _, p := range s.Plugins {
		gauge(pluginUp, truth(p.State == "healthy" || p.State == "degraded"), p.Name, p.Version)
		counter(pluginRestarts, float64(p.Restarts), p.Name)
		for _, state := range pluginStates {
			gauge(pluginState, truth(p.State == state), p.Name, state)
		}
	}
	for _, vm := range s.VMs {
		collectVM(vm, gauge, counter)
	}
	for id, healthy := range s.Networks {
		gauge(networkHealthy, truth(healthy), id)
	}
	for _, p := range s.Ports {
		gauge(portUp, truth(p.Up), p.ID, p.VM, p.Network)
		for _, c := range portCounters {
			if p.Stats != nil {
				counter(c.desc, float64(c.value(p.Stats)), p.ID, p.VM, p.Network)
			}
		}
	}
}

type emit func(d *prometheus.Desc, v float64, labels ...string)

func collectAgent(a AgentSample, gauge emit) {
	gauge(agentConnected, truth(a.Connected))
	gauge(agentHeartbeat, seconds(a.LastHeartbeat))
	gauge(agentCert, seconds(a.CertificateExpiry))
	gauge(agentRunning, float64(a.Running))
	gauge(agentWaiting, float64(a.Waiting))
	gauge(agentPending, float64(a.Pending))
	for phase, n := range a.VMPhases {
		gauge(agentVMs, float64(n), phase)
	}
}

func collectVM(vm VMSample, gauge, counter emit) {
	l := []string{vm.ID, vm.Name, vm.Project}
	with := func(more string) []string { return []string{vm.ID, vm.Name, vm.Project, more} }
	st := vm.Stats
	gauge(vmUp, truth(st.GetError() == ""), l...)
	if st.GetError() != "" {
		return
	}
	counter(vmCPU, float64(st.GetCpuTimeNs())/1e9, l...)
	gauge(vmVCPUs, float64(st.GetVcpus()), l...)
	gauge(vmMemory, float64(st.GetMemoryBytes()), l...)
	gauge(vmRSS, float64(st.GetMemoryRssBytes()), l...)
	if st.GetMemoryUnusedBytes() >= 0 {
		gauge(vmUnused, float64(st.GetMemoryUnusedBytes()), l...)
	}
	for _, d := range st.GetDisks() {
		dl := with(d.GetDiskId())
		counter(vmDiskRead, float64(d.GetReadBytes()), dl...)
		counter(vmDiskReads, float64(d.GetReadRequests()), dl...)
		counter(vmDiskWrite, float64(d.GetWriteBytes()), dl...)
		counter(vmDiskWrits, float64(d.GetWriteRequests()), dl...)
		gauge(vmDiskAlloc, float64(d.GetAllocationBytes()), dl...)
		gauge(vmDiskSize, float64(d.GetCapacityBytes()), dl...)
	}
	for _, i := range st.GetInterfaces() {
		il := with(i.GetInterfaceId())
		counter(vmNetRx, float64(i.GetReceiveBytes()), il...)
		counter(vmNetTx, float64(i.GetTransmitBytes()), il...)
		counter(vmNetRxDrop, float64(i.GetReceiveDrops()), il...)
		counter(vmNetTxDrop, float64(i.GetTransmitDrops()), il...)
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1e3
}
