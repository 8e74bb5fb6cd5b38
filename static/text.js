// What the page says, in two languages, and how it writes numbers. A name that is not here is shown as it is.

const ENGLISH = {
  // the frame
  title: 'LLM Memory Calculator', tagline: 'How much GPU memory a model takes, and why', skip: 'Skip to the answer',
  docs: 'API', bytes: 'bytes', units: 'Units', to_dark: 'Dark', to_light: 'Light', question: 'What to calculate',
  failed: 'The service does not answer: {why}', bad_json: 'This is not JSON: {why}',
  pick_bundled: 'Choose a model to begin.', pick_config: "Paste a model's config.json to begin.",
  pick_sizes: 'Give billions of parameters, hidden size, layers and attention heads to begin.',

  waiting: 'Asking the service…', marked: 'See the marked field.', marked_still: 'See the marked field. Below is the last answer.', required: 'required',

  // groups of the question
  calculation_type: 'Calculate', inference: 'Inference', training: 'Training', model: 'Model', workload: 'Workload',
  storage: 'Number formats', serving: 'Engine', recipe: 'Recipe', card: 'GPU', sharding: 'Parallelism', more: 'More',
  bundled: 'Bundled', config: 'config.json', sizes: 'Sizes', none: 'none', own: "the checkpoint's own",
  automatic: 'default', search: 'Search {count} models: name, family, size', no_match: 'No model matches.',
  made_for: 'up to {count} tokens', engine_options: "Options, under the engine's own names",

  // fields
  model_name: 'Model', model_size: 'Billions of parameters', hidden_size: 'Hidden size', num_hidden_layers: 'Layers',
  num_attention_heads: 'Attention heads', num_key_value_heads: 'Key-value heads', intermediate_size: 'Feed-forward width',
  vocab_size: 'Vocabulary', head_dim: 'Head width', batch_size: 'Sequences at once', sequence_length: 'Tokens a sequence',
  prompt_length: 'Prompt tokens', logits: 'Logits', attention: 'Attention', format: 'Weights', precision: 'Precision',
  quantization: 'Quantization', kv_cache_precision: 'Cache', engine: 'Engine', engine_version: 'Engine version',
  gpu: 'GPU', gpu_count: 'Number of GPUs', gpu_memory_gib: 'GPU memory (GiB)', tensor_parallel: 'Tensor parallel',
  pipeline_parallel: 'Pipeline stages', expert_parallel: 'Expert parallel', data_parallel: 'Data parallel',
  context_parallel: 'Context parallel', sequence_parallel: 'Sequence parallel', zero_stage: 'ZeRO stage',
  data_parallel_attention: 'Replicas share experts', pipeline_schedule: 'Schedule', virtual_stages: 'Virtual stages',
  micro_batches: 'Micro batches', method: 'Method', mixed_precision: 'Mixed precision', optimizer: 'Optimizer',
  optimizer_implementation: 'Optimizer step', optimizer_in_backward: 'Optimizer step inside the backward pass',
  gradient_checkpointing: 'Checkpointing', activation_offload: 'Offload activations', loss: 'Loss', kernels: 'Kernels',
  framework: 'Framework', compile: 'torch.compile', keep_logits: 'Keep logits through the backward pass',
  gradient_accumulation: 'Accumulation steps', trainable_parameters: 'Trained parameters (%)',
  gradient_precision: 'Gradients in', optimizer_state_precision: 'Optimizer states in', 'lora.rank': 'LoRA rank',
  'lora.target_modules': 'LoRA targets', 'lora.precision': 'Adapters in', 'lora.dora': 'DoRA',

  // parts and moments
  model_weights: 'Weights', kv_cache: 'KV cache', activation_memory: 'Activations', runtime_overhead: 'Runtime',
  gradient_memory: 'Gradients', optimizer_memory: 'Optimizer', master_weights: 'Master weights',
  adapter_memory: 'Adapters', temporary_memory: 'Temporary', other: 'Other', prefill: 'Prefill', decode: 'Decode',
  forward: 'Forward', backward: 'Backward', optimizer_step: 'Optimizer step', peak: 'peak',

  // the answer
  total_title: 'Memory', parameters: '{count} parameters', active: '{count} active', tokens: 'tokens',
  per_gpu: 'Fullest GPU', whole: 'All GPUs', fits: 'fits', full: 'does not fit', fits_on: 'Fits on {card}',
  full_on: 'Does not fit on {card}', no_card: 'Choose a GPU to see whether it fits', free: 'free', over: 'too much',
  of: 'of', limit: 'GPU memory', max_length: 'Longest context', max_batch: 'Most sequences', min_gpus: 'Fewest GPUs',
  outside: 'Driver and allocator', driver_context_gib: 'driver context', fragmentation_gib: 'fragmentation',
  communication_gib: 'communication', engine_share: 'The engine may use {size} (dashed line).',
  part: 'Part', size: 'Size', share_of: 'Share', formula: 'How it is computed', range: '{low} to {high}',
  reserved: '{size} of cache is set aside, {need} is needed.', report: 'What the engine prints when it starts',
  stages: 'Pipeline stages', stage: 'Stage {count}', suggestions: 'What would help', saves: 'saves {size}', use: 'Use',
  helps: 'helps', phases_title: 'Moments', phases_inference: 'What is alive at each moment; the largest counts.',
  phases_training: 'What is alive at each moment of a step; the largest counts.',
  curve_title: 'Memory over context', crosses: 'fits up to {count} tokens', point: 'Point at the curve to read it.',
  grid_title: 'Context × sequences', cards_title: 'GPUs that hold it', cards_order: '{count} GPUs, least memory first.',
  needed: 'Needed', split: 'Split', used_each: 'Used on each', room_left: 'Free on each',
  no_gpu: 'No number of GPUs in the catalogue holds this.',

  // side by side, share
  compare_title: 'Side by side', compare_empty: 'Add this answer, change something, add that one: up to four.',
  add: 'Add to the comparison', remove: 'Remove', load: 'Open', first: 'the first', difference: 'against the first',
  share_title: 'Share', link: 'Copy link', curl: 'Copy as curl', python: 'Copy as Python', svg: 'Picture (SVG)',
  png: 'Picture (PNG)', csv: 'Figures (CSV)', json: 'Figures (JSON)', copied: 'Copied',
};

const CHINESE = {
  title: '大模型显存计算器', tagline: '模型需要多少显存，为什么', skip: '跳到结果',
  docs: 'API', bytes: '字节', units: '单位', to_dark: '深色', to_light: '浅色', question: '计算条件',
  failed: '服务没有应答：{why}', bad_json: '不是合法的 JSON：{why}',
  pick_bundled: '请先选择模型。', pick_config: '请先粘贴模型的 config.json。',
  pick_sizes: '请先填写参数量（十亿）、隐藏维度、层数和注意力头数。',

  waiting: '正在询问服务…', marked: '请看标出的字段。', marked_still: '请看标出的字段。下面是上一次的结果。', required: '必填',

  calculation_type: '计算类型', inference: '推理', training: '训练', model: '模型', workload: '负载',
  storage: '数值格式', serving: '推理引擎', recipe: '训练配方', card: '显卡', sharding: '并行', more: '更多',
  bundled: '内置模型', config: 'config.json', sizes: '自定尺寸', none: '无', own: '检查点自带',
  automatic: '默认', search: '搜索 {count} 个模型：名称、系列、大小', no_match: '没有匹配的模型。',
  made_for: '最长 {count} 词元', engine_options: '引擎选项（沿用引擎自己的名称）',

  model_name: '模型', model_size: '参数量（十亿）', hidden_size: '隐藏维度', num_hidden_layers: '层数',
  num_attention_heads: '注意力头数', num_key_value_heads: '键值头数', intermediate_size: '前馈维度',
  vocab_size: '词表大小', head_dim: '每头维度', batch_size: '并发序列数', sequence_length: '每序列词元数',
  prompt_length: '提示词元数', logits: 'Logits', attention: '注意力实现', format: '权重', precision: '精度',
  quantization: '量化', kv_cache_precision: '缓存', engine: '引擎', engine_version: '引擎版本',
  gpu: '显卡', gpu_count: '显卡数量', gpu_memory_gib: '显存（GiB）', tensor_parallel: '张量并行',
  pipeline_parallel: '流水线阶段', expert_parallel: '专家并行', data_parallel: '数据并行',
  context_parallel: '上下文并行', sequence_parallel: '序列并行', zero_stage: 'ZeRO 阶段',
  data_parallel_attention: '各副本共享专家', pipeline_schedule: '调度方式', virtual_stages: '虚拟阶段',
  micro_batches: '微批数', method: '方法', mixed_precision: '混合精度', optimizer: '优化器',
  optimizer_implementation: '优化器实现', optimizer_in_backward: '在反向过程中更新参数',
  gradient_checkpointing: '梯度检查点', activation_offload: '激活卸载', loss: '损失', kernels: '算子',
  framework: '框架', compile: 'torch.compile', keep_logits: '反向过程中保留 logits',
  gradient_accumulation: '梯度累积步数', trainable_parameters: '可训练参数（%）',
  gradient_precision: '梯度精度', optimizer_state_precision: '优化器状态精度', 'lora.rank': 'LoRA 秩',
  'lora.target_modules': 'LoRA 目标模块', 'lora.precision': '适配器精度', 'lora.dora': 'DoRA',

  model_weights: '权重', kv_cache: 'KV 缓存', activation_memory: '激活', runtime_overhead: '运行时',
  gradient_memory: '梯度', optimizer_memory: '优化器', master_weights: '主权重',
  adapter_memory: '适配器', temporary_memory: '临时', other: '其他', prefill: '预填充', decode: '解码',
  forward: '前向', backward: '反向', optimizer_step: '优化器更新', peak: '峰值',

  total_title: '显存', parameters: '{count} 参数', active: '激活 {count}', tokens: '词元',
  per_gpu: '最满的一张卡', whole: '全部显卡', fits: '放得下', full: '放不下', fits_on: '{card} 放得下',
  full_on: '{card} 放不下', no_card: '选择显卡，看看能否放下', free: '空闲', over: '超出',
  of: '/', limit: '显存上限', max_length: '最长上下文', max_batch: '最多并发', min_gpus: '最少显卡',
  outside: '驱动与分配器', driver_context_gib: '驱动上下文', fragmentation_gib: '碎片', communication_gib: '通信',
  engine_share: '引擎最多使用 {size}（虚线）。',
  part: '部分', size: '大小', share_of: '占比', formula: '计算方式', range: '{low} 至 {high}',
  reserved: '缓存预留 {size}，实际需要 {need}。', report: '引擎启动时的输出',
  stages: '流水线各阶段', stage: '第 {count} 阶段', suggestions: '可以这样改', saves: '节省 {size}', use: '采用',
  helps: '有帮助', phases_title: '各时刻', phases_inference: '每个时刻占用的显存，以最大者为准。',
  phases_training: '一个训练步中每个时刻占用的显存，以最大者为准。',
  curve_title: '显存随上下文的变化', crosses: '最多放下 {count} 词元', point: '将指针移到曲线上查看数值。',
  grid_title: '上下文 × 并发', cards_title: '放得下的显卡', cards_order: '{count} 种显卡，按总显存从小到大。',
  needed: '数量', split: '切分', used_each: '每卡占用', room_left: '每卡空闲',
  no_gpu: '目录中的显卡，无论多少张都放不下。',

  compare_title: '并排比较', compare_empty: '加入当前结果，改动条件，再加入：最多四个。',
  add: '加入比较', remove: '移除', load: '打开', first: '第一项', difference: '与第一项相比',
  share_title: '分享', link: '复制链接', curl: '复制为 curl', python: '复制为 Python', svg: '图片（SVG）',
  png: '图片（PNG）', csv: '数据（CSV）', json: '数据（JSON）', copied: '已复制',
};

export const LANGUAGES = { en: ENGLISH, zh: CHINESE };
let language = 'en';

export const current = () => language;

export function speak(name) {
  language = name in LANGUAGES ? name : 'en';
  document.documentElement.lang = language === 'zh' ? 'zh-CN' : 'en';
}

// The words for a key, with {names} filled in.
export function say(key, values = {}) {
  const words = LANGUAGES[language][key] ?? key;
  return words.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
}

// ------------------------------------------------------------------ numbers, as the reader writes them

export const GIB = 2 ** 30;
const GB = 1e9;
let unit = 'gib';

export const units = () => unit;

export function measure(name) {
  unit = ['gib', 'gb', 'bytes'].includes(name) ? name : 'gib';
}

const written = (n, digits) => new Intl.NumberFormat(navigator.language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(n);

// A number in full.
export const count = (n) => new Intl.NumberFormat(navigator.language).format(n);

// Bytes in the chosen unit.
export function memory(bytes) {
  if (unit === 'bytes') return `${count(Math.round(bytes))} B`;
  const value = bytes / (unit === 'gib' ? GIB : GB);
  const digits = Math.abs(value) >= 100 ? 1 : 2;
  if (bytes > 0 && value < 0.005) return `< ${written(0.01, 2)} ${unit === 'gib' ? 'GiB' : 'GB'}`;
  return `${written(value, digits)} ${unit === 'gib' ? 'GiB' : 'GB'}`;
}

// Bytes that are round in the chosen unit.
export const rough = (bytes) => (unit === 'bytes' ? memory(bytes)
  : `${new Intl.NumberFormat(navigator.language, { maximumSignificantDigits: 4 }).format(bytes / unitBytes())} ${unit === 'gib' ? 'GiB' : 'GB'}`);

export const unitBytes = () => (unit === 'gib' ? GIB : GB);

// The memory of a card, which is known in GiB.
export const gib = (n) => `${new Intl.NumberFormat(navigator.language, { maximumFractionDigits: 1 }).format(n)} GiB`;

// 8,190,735,360 as 8.19B.
export function short(n) {
  for (const [size, letter] of [[1e12, 'T'], [1e9, 'B'], [1e6, 'M']]) if (n >= size) return `${+(n / size).toPrecision(3)}${letter}`;
  return count(n);
}

// 131,072 as 128K.
export function brief(n) {
  for (const [size, letter] of [[2 ** 20, 'M'], [2 ** 10, 'K']]) if (n >= size) return `${+(n / size).toPrecision(3)}${letter}`;
  return count(n);
}
