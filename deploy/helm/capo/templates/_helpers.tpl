{{- define "capo.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "capo.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "capo.labels" -}}
{{ include "capo.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "capo.image" -}}
{{- if or (not .Values.image.repository) (hasPrefix "registry.example.com/" .Values.image.repository) -}}
{{- fail "image.repository is not set. Build the image, push it to a registry that the cluster can pull from (docs/docker.md), and add --set image.repository=YOUR-REGISTRY/capo-credit" -}}
{{- end -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "capo.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "capo.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- define "capo.claim" -}}
{{ default (printf "%s-models" (include "capo.fullname" .)) .Values.modelCache.existingClaim }}
{{- end -}}

{{/* Pods that mount the cache at the same time, at most. */}}
{{- define "capo.pods" -}}
{{- if ne .Values.autoscaling.kind "none" -}}
{{- max (int .Values.autoscaling.maxReplicas) (int .Values.replicaCount) -}}
{{- else if .Values.multiNode.enabled -}}
{{- mul (int .Values.replicaCount) (int .Values.multiNode.nodes) -}}
{{- else -}}
{{- int .Values.replicaCount -}}
{{- end -}}
{{- end -}}

{{/* Whether the chart creates a claim that pods of one node only can mount; empty if not. */}}
{{- define "capo.oneNodeCache" -}}
{{- with .Values.modelCache -}}
{{- if and .persistent (not .existingClaim) (not (has "ReadWriteMany" .accessModes)) }}true{{ end -}}
{{- end -}}
{{- end -}}

{{- define "capo.strategy" -}}
{{- if .Values.strategy -}}
{{ toYaml .Values.strategy }}
{{- else if include "capo.oneNodeCache" . -}}
type: Recreate
{{- else -}}
type: RollingUpdate
rollingUpdate: { maxUnavailable: 0, maxSurge: 1 }
{{- end -}}
{{- end -}}

{{/* The service's settings: what the values say, and what follows from the rest of them; as YAML. */}}
{{- define "capo.settings" -}}
{{- $settings := deepCopy .Values.config -}}
{{- if eq (default "vllm" $settings.engine) "vllm" -}}
{{- $arguments := deepCopy (default dict $settings.engine_args) -}}
{{- if gt (int .Values.parallel.tensor) 1 }}{{- $_ := set $arguments "tensor_parallel_size" (int .Values.parallel.tensor) }}{{- end -}}
{{- if gt (int .Values.parallel.pipeline) 1 }}{{- $_ := set $arguments "pipeline_parallel_size" (int .Values.parallel.pipeline) }}{{- end -}}
{{- if .Values.multiNode.enabled }}{{- $_ := set $arguments "distributed_executor_backend" "ray" }}{{- end -}}
{{- if $arguments }}{{- $_ := set $settings "engine_args" $arguments }}{{- end -}}
{{- end -}}
{{- if .Values.judgeTemplate }}{{- $_ := set $settings "template" "/etc/capo/judge.j2" }}{{- end -}}
{{- if .Values.secrets.apiKeys.name }}{{- $_ := set $settings "api_keys_file" (printf "/etc/capo-keys/%s" .Values.secrets.apiKeys.key) }}{{- end -}}
{{- if .Values.secrets.tls.name -}}
{{- $_ := set $settings "tls_cert" "/etc/capo-tls/tls.crt" -}}
{{- $_ := set $settings "tls_key" "/etc/capo-tls/tls.key" -}}
{{- if .Values.secrets.tls.clientAuth }}{{- $_ := set $settings "tls_client_ca" "/etc/capo-tls/ca.crt" }}{{- end -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{/* Single values go into the configuration file. */}}
{{- define "capo.config" -}}
{{- $single := dict -}}
{{- range $name, $value := include "capo.settings" . | fromYaml -}}
{{- if not (or (kindIs "map" $value) (kindIs "slice" $value)) }}{{- $_ := set $single $name $value }}{{- end -}}
{{- end -}}
{{- toToml $single -}}
{{- end -}}

{{/* Maps and lists go into variables, as JSON: TOML would make a fraction of every whole number. */}}
{{- define "capo.structured" -}}
{{- range $name, $value := include "capo.settings" . | fromYaml -}}
{{- if or (kindIs "map" $value) (kindIs "slice" $value) }}
- name: CAPO_{{ upper $name }}
  value: {{ toJson $value | quote }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "capo.scheme" -}}
{{ ternary "HTTPS" "HTTP" (ne .Values.secrets.tls.name "") }}
{{- end -}}

{{- define "capo.probe" -}}
{{- if and .root.Values.secrets.tls.name .root.Values.secrets.tls.clientAuth -}}
tcpSocket:
  port: http
{{- else -}}
httpGet:
  path: {{ .path }}
  port: http
  scheme: {{ include "capo.scheme" .root }}
{{- end }}
periodSeconds: {{ .root.Values.probes.periodSeconds }}
timeoutSeconds: {{ .root.Values.probes.timeoutSeconds }}
{{- end -}}
